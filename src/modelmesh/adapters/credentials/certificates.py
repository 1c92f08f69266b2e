"""The names in a client certificate."""

MOST = 64
"""Names that are read of one certificate."""


def names_of(certificate: bytes) -> tuple[str, ...]:
    """The names of a certificate (DER) whose holder TLS has verified: DNS, URI, mail, and then the common name.

    Empty if it cannot be read: an authority that the operator trusts has signed it, and its form may still be odd.
    """
    from cryptography import x509  # noqa: PLC0415 - 8 MB that instances without such clients save
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - as above

    try:
        read = x509.load_der_x509_certificate(certificate)
        names: list[str] = []
        try:
            listed = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            for kind in (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name):
                names.extend(listed.get_values_for_type(kind))
        except x509.ExtensionNotFound:
            pass
        names.extend(str(one.value) for one in read.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    except ValueError:
        return ()
    return tuple(names[:MOST])
