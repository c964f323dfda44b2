"""The names alone."""


class IntegratedAutoencoderKL:
    pass


class Upsample:
    pass
