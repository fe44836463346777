"""Where nbgrader finds the assignments; what it makes lies in `course/` beside `notebooks/`. Run nbgrader in this folder."""

from pathlib import Path

c = get_config()  # noqa: F821  # type: ignore[name-defined]  # given by nbgrader
c.CourseDirectory.course_id = "xai"
c.CourseDirectory.root = str(Path(__file__).resolve().parents[2])
c.CourseDirectory.source_directory = "notebooks/assignments"
c.CourseDirectory.release_directory = "course/release"
c.CourseDirectory.submitted_directory = "course/submitted"
c.CourseDirectory.autograded_directory = "course/autograded"
c.CourseDirectory.feedback_directory = "course/feedback"
c.CourseDirectory.solution_directory = "course/solution"
c.CourseDirectory.db_url = f"sqlite:///{Path(__file__).resolve().parents[2] / 'course' / 'gradebook.db'}"
c.NbGrader.logfile = ""
