from tests.jobs.conftest import job, model

__all__ = ["job", "model"]
