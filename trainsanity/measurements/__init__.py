"""The expensive measurements of a pipeline, each taken once and shared by every check that asks.

No module here imports torch when it is imported: the catalogue is cheap to list.
"""
