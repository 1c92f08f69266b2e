"""What strangers can do at the ports of an instance, as its settings are."""

import ipaddress

from modelmesh.instance.settings import Settings


def exposure(settings: Settings) -> str:
    """What an operator should know before others reach this instance; empty: nothing."""
    if _is_loopback(settings.listen_host) or not (settings.serving_port or settings.resolved_rest_port()):
        return ""
    has_tls = settings.tls_key_path is not None
    knows_callers = settings.access_path is not None or settings.tls_client_auth == "require"
    if not knows_callers:
        clear = "" if has_tls else ", in clear text"
        return (
            f"every client that reaches {settings.listen_host} may call, load, register and delete any model{clear}; "
            "set MM_ACCESS_PATH for access rules, MM_TLS_PRIVATE_KEY_PATH and MM_TLS_KEY_CERT_PATH for TLS, "
            "or MM_LISTEN_HOST=127.0.0.1"
        )
    if not has_tls:
        return (
            f"keys and tokens of callers come to {settings.listen_host} in clear text; "
            "set MM_TLS_PRIVATE_KEY_PATH and MM_TLS_KEY_CERT_PATH for TLS"
        )
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
