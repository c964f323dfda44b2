"""Another engine in the place of the loaded model's UNet, or none."""

current_unet = None
