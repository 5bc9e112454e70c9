"""The one exception a user is meant to read."""


class UserError(Exception):
    """Bad input or a missing resource: one line saying what, where (file, key, line) and what to do.

    The command line prints the message without a traceback and exits with status 2. Anything else that is raised is
    a defect of ours and keeps its traceback (status 1).
    """
