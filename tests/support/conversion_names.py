"""For the server of training processes: the table by which transformers renames weights.

Each process makes it anew when it first loads a model, which takes 0.1 CPU seconds; forks have it.
"""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("t5")
