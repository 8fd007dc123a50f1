"""Jobs that survive: a folder beside the output from which a job goes on.

What a job has finished is in its folder: a manifest that says which job it is, a
journal of checkpoints, and the parts of the output. After SIGKILL, a power cut or on a
disk that was full, the same job, opened again, goes on behind its last checkpoint
(:class:`~uid2_async.bulk.resume.folder.JobFolder`).

A step of a job is: write to a part, sync it, append the checkpoint. An output is ended
by its last checkpoint, the rename
(:func:`~uid2_async.bulk.private_files.replace`) and a checkpoint that says
``done``. A job that finds all rows in the journal, but no part any more, died between
the last two, and has only that checkpoint left to append.

Everything here is small, synchronous and for POSIX systems: it calls fsync and flock,
and is to be called in a thread. The folder holds no API key, and manifest and journal
no identity and no hash of one; the parts hold the columns of the customer's file.
"""
