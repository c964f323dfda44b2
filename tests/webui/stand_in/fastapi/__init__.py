"""The names alone: what a server makes of them is tried in real hosts."""


class HTTPException(Exception):
    def __init__(self, status_code, detail=None, headers=None):
        self.status_code, self.detail, self.headers = status_code, detail, headers


class Depends:
    def __init__(self, dependency):
        self.dependency = dependency


def Body(default=None):  # noqa: N802
    return default
