"""Runs into one output folder: started, stopped, resumed, refused, set aside."""
