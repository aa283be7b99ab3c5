"""App config of the embedded Portia Runtime."""

from django.apps import AppConfig


class PortiaRuntimeConfig(AppConfig):
    """The other side of the wire: plans, plan runs and clarifications as Portia knows them."""

    name = "portia_runtime"
    verbose_name = "Portia Runtime"
