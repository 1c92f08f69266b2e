"""Payloads of inference calls, copied by the data plane, on their way to loggers and HTTP sinks."""
