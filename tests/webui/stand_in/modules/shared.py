"""What a user asked for."""

from types import SimpleNamespace

state = SimpleNamespace(interrupted=False, skipped=False)
cmd_opts = SimpleNamespace(medvram=False, lowvram=False, api=True, api_auth=None)
sd_model = None


class OptionInfo:
    def __init__(self, default, label, component=None, component_args=None, section=None):
        self.default, self.label, self.component_args, self.section = default, label, component_args, section


class Options:
    def __init__(self):
        self.data, self.data_labels = {}, {}

    def add_option(self, key, info):
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)


opts = Options()
