"""One file for each way to keep model files.

A source is imported when a location of its kind is opened, and only then what it needs beside Python.
"""
