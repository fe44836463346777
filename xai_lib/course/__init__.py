"""Grading of course assignments: `xai grade FOLDER`.

Assignments are notebooks in nbgrader's format (source, release, submission). nbgrader makes the release versions and serves its
own tools; here is what it lacks: submissions run one beside the other under the strict execution of `xai run`, so that an
endless loop, a dead kernel or a changed test costs one task and never the batch. Marks come per task with a line of feedback.
"""
