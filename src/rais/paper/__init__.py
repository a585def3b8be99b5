"""The paper reproduced with the library: settings, data, models, training, records, analysis and figures.

It uses the library through its public names; nothing of the library knows this folder.
"""
