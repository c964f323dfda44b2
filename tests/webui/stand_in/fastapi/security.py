"""Names and passwords."""


class HTTPBasicCredentials:
    def __init__(self, username, password):
        self.username, self.password = username, password


class HTTPBasic:
    pass
