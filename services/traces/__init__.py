"""One trace a run: from its request over the queue and the trainer to its publication."""
