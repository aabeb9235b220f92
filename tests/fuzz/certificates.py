"""TLS contexts for the fuzzer and the soak: one authority, made for the run.

Called by scenarios; never writes a key where it would stay.
"""

import ssl

import trustme

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("localhost", "127.0.0.1")


def server_context(newest=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    if newest is not None:
        context.maximum_version = newest
    return context


def client_context():
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context
