"""What a user chooses: the allowed names, the defaults and the limits of options, and options that check themselves.

These modules import the standard library and `eet.errors` only, so that a command line can list and check options before torch is loaded.
"""
