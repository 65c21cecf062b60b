"""Programs of others: their command lines, what they print and write, and how they run.

Builders and parsers are pure. Fields have the names of cryo-EM services; commands are
word by word those of cryoem-services 1.5.0, so that logs and projects look the same.
"""
