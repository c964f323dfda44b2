"""The standalone side: predict, train and evaluate on a command line, through diffusers."""
