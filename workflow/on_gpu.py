"""Runs a command on one of this machine's GPUs: python on_gpu.py 0,1 2 COMMAND ... (GPUs 0 and 1, two commands on each).

The command sees this GPU only (CUDA_VISIBLE_DEVICES). Its place is a locked file: the system frees it when the command ends, however it ends."""

import fcntl
import os
import sys
import tempfile
import time
from itertools import cycle, product

gpus, each, *command = sys.argv[1:]
# first one command on every GPU, then a second one
for place, gpu in cycle(product(range(int(each)), gpus.split(","))):
    path = os.path.join(tempfile.gettempdir(), f"diffsda-gpu_{gpu}-{place}-{os.getuid()}.lock")
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        os.close(held)
        time.sleep(0.2)
os.set_inheritable(held, True)
os.environ["CUDA_VISIBLE_DEVICES"] = gpu
os.execvp(command[0], command)
