"""A certificate for tests that sign: made here, trusted by nobody."""

import datetime
import pathlib


def write_certificate(folder: pathlib.Path) -> tuple[str, str]:
  """Write a chain of two certificates and the key of the first, as PEM.

  Returns:
    The paths of the chain and the key.
  """
  from cryptography.hazmat.primitives import hashes, serialization
  from cryptography.hazmat.primitives.asymmetric import ec

  root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
  form = serialization.Encoding.PEM
  chain = [
    builder.sign(root, hashes.SHA256()).public_bytes(form)
    for builder in (_signer(root, key), _authority(root))
  ]
  secret = key.private_bytes(
    form,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
  )
  paths = folder / 'chain.pem', folder / 'key.pem'
  for path, content in zip(paths, (b''.join(chain), secret), strict=True):
    path.write_bytes(content)
  return str(paths[0]), str(paths[1])


def _builder(name: str, key):
  """A certificate of 30 days, issued by 'Test authority'."""
  from cryptography import x509

  now = datetime.datetime.now(datetime.UTC)
  day = datetime.timedelta(days=1)
  return (
    x509.CertificateBuilder()
    .subject_name(_name(name))
    .issuer_name(_name('Test authority'))
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - day)
    .not_valid_after(now + 30 * day)
    .add_extension(
      x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    )
  )


def _name(common: str):
  from cryptography import x509

  oid = x509.oid.NameOID
  return x509.Name(
    [
      x509.NameAttribute(oid.ORGANIZATION_NAME, 'Tests'),
      x509.NameAttribute(oid.COMMON_NAME, common),
    ]
  )


def _usage(signature: bool):
  from cryptography import x509

  uses = dict.fromkeys(
    (
      *('content_commitment', 'key_encipherment', 'data_encipherment'),
      *('key_agreement', 'encipher_only', 'decipher_only'),
    ),
    False,
  )
  return x509.KeyUsage(
    digital_signature=signature,
    key_cert_sign=not signature,
    crl_sign=not signature,
    **uses,
  )


def _authority(root):
  from cryptography import x509

  limits = x509.BasicConstraints(ca=True, path_length=None)
  builder = _builder('Test authority', root).add_extension(limits, True)
  return builder.add_extension(_usage(signature=False), True)


def _signer(root, key):
  from cryptography import x509

  purposes = [x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION]
  return (
    _builder('Test signer', key)
    .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    .add_extension(_usage(signature=True), True)
    .add_extension(x509.ExtendedKeyUsage(purposes), False)
    .add_extension(
      x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()),
      False,
    )
  )
