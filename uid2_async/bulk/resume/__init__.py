"""Jobs that survive: a folder beside the output from which a job goes on.

What a job has finished is in its folder: a manifest that says which job it is, a
journal of checkpoints, and the parts of the output. After SIGKILL, a power cut or on a
disk that was full, the same job, opened again, goes on behind its last checkpoint
(:class:`~uid2_async.bulk.resume.folder.JobFolder`).

Everything here is small, synchronous and for POSIX systems: it calls fsync and flock,
and is to be called in a thread. The folder holds no API key, and manifest and journal
no identity and no hash of one; the parts hold the columns of the customer's file.
"""
