"""What runs in processes beside the server's: the model, and whatever reads batches' files.

`children` is the door: it imports the others in the process that needs them. `engine_process` runs
batches as jobs, `clerk_process` checks files and ends what is given up. Neither reads the
store: they are told tasks, and tell what became of them.
"""
