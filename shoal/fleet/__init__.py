"""The engines of a job, wherever they are: here, on this machine, on a Ray cluster.

Nothing is imported here: an actor on a machine with other packages has to tell so.
"""
