from tests.jobs.conftest import description, job, model

__all__ = ["description", "job", "model"]
