"""RELION project folders: the pipeline file, job folders, and the files a job leaves there.

Changes to the pipeline follow RELION's lock protocol, so that RELION's GUI may be open on the same project.
Whatever the pipeline says and whatever links a project holds, nothing outside of it is read as a record,
made, moved or deleted.
"""
