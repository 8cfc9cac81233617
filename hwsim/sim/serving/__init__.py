"""Serving engines, replicas and routers, played in SimPy."""
