"""Runs PyKMIP's server: pykmip-server.py CONFIG LOG"""
import sys

from kmip.services.server import KmipServer

with KmipServer(config_path=sys.argv[1], log_path=sys.argv[2]) as server:
    server.serve()
