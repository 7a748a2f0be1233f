"""Stands for the Python package `podop`: its one function becomes the program of that name."""
import os


def run_server(verbosity, protocol, socket, tables):
    arguments = ["podop", "--socket", socket, "--socket-mode", "0755", "--mode", protocol] + ["-v"] * verbosity
    for name, kind, param in tables:
        arguments += ["--name", name, "--type", kind, "--param", param]
        if name == "dane":  # seconds per key while a name server is silent, which must not keep Mailu's threads busy
            arguments += ["--option", "dane:connections=1"]
    arguments += os.environ.get("PODOP_OPTIONS", "").split()
    os.execv(os.environ.get("PODOP", "/usr/local/bin/podop"), arguments)
