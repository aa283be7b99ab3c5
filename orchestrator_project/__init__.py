"""Wiring of the service: settings, routes, processes. No business rule lives here."""

VERSION = "0.1.0"
