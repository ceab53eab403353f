"""The bundle on disk: one folder that holds a model and its catalog."""
