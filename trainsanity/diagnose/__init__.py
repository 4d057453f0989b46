"""Judge the log of a run.

``reading`` and ``formats`` find a log's entries in files, ``entries`` keeps them, ``questions``
judges them and ``reporter`` writes the answer.  Logs are streamed, so that a long one takes no more
memory than a short one.  torch is not needed.
"""
