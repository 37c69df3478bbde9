"""The files of a run that succeeded, as its tenant gets them from the API."""
