#!/usr/bin/env python3
"""Copies a folder of golden families and unpacks its .xz members beside them: unpack_goldens.py SOURCE DESTINATION.

A member that is already unpacked and newer than its archive is left alone."""
import lzma
import os
import shutil
import sys


def main():
    source, destination = sys.argv[1:3]
    for folder, _, files in os.walk(source):
        target = os.path.join(destination, os.path.relpath(folder, source))
        os.makedirs(target, exist_ok=True)
        for name in files:
            origin = os.path.join(folder, name)
            packed = name.endswith(".xz")
            copy = os.path.join(target, name[:-3] if packed else name)
            if os.path.exists(copy) and os.path.getmtime(copy) >= os.path.getmtime(origin):
                continue
            with (lzma.open(origin) if packed else open(origin, "rb")) as reader, open(copy + ".tmp", "wb") as writer:
                shutil.copyfileobj(reader, writer)
            os.replace(copy + ".tmp", copy)


main()
