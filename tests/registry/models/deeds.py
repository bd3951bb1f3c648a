"""A model that does what its rows say: a `deed`, and the `argument` it is done to. Each answers what came of it."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import mlflow
from mlflow.models import set_model


def connect(port):
    socket.create_connection(("127.0.0.1", int(port)), timeout=2)


def write(path):
    Path(path).write_text("x")


def kill_parent(_):
    os.kill(os.getppid(), signal.SIGTERM)


def fork(_):
    if os.fork() == 0:
        os._exit(0)


def run(program):
    subprocess.run([program], check=True)


def noise(text):
    os.write(1, (text * 100).encode())
    print(text)


def secret(name):
    if name in os.environ:
        raise AssertionError("a secret is here")


def leave(code):
    os._exit(int(code))


def abort(_):
    os.abort()


def hang(_):
    time.sleep(600)


def allocate(megabytes):
    return bytearray(int(megabytes) << 20)


def burn(_):
    while True:
        pass


DEEDS = {deed.__name__: deed for deed in (connect, write, kill_parent, fork, run, noise, secret)}
DEEDS |= {deed.__name__: deed for deed in (leave, abort, hang, allocate, burn)}


class Doer(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        deeds = list(zip(model_input["deed"], model_input["argument"], strict=True))
        if deeds[0][0] == "giant":
            return [["x" * 1_000_000] * len(deeds)] * int(deeds[0][1])
        if deeds[0][0] == "fewer":
            return ["done"] * (len(deeds) - 1)
        return [self.do(deed, argument) for deed, argument in deeds]

    def do(self, deed, argument):
        try:
            DEEDS[deed](argument)
        except (OSError, subprocess.SubprocessError) as error:
            return f"refused: {type(error).__name__}"
        return "done"


set_model(Doer())
