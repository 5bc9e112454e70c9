"""Jobs that share one start-up: a server that has imported everything forks a process for each of them.

`client.py` is what a command becomes when the workflow asks for it (QTUNING_WARM), `server.py` what it talks to.
Nothing here is needed for a result: where the server cannot be had, the command runs by itself.
"""
