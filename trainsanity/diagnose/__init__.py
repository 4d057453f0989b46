"""What the log of a run shows.

``entries`` keeps it, ``formats`` and ``reading`` find it in files, ``questions`` judges it and
``face`` tells it.  Everything is streamed and takes the same memory however long the log; torch is
not needed.
"""
