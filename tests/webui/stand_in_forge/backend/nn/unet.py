"""The name alone: its arithmetic is tried in real hosts."""


class IntegratedUNet2DConditionModel:
    pass
