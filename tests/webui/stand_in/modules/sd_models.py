"""The model that is loaded."""


def forge_model_reload():
    pass


def send_model_to_device(model):
    pass
