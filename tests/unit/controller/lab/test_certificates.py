"""The home's authority and the pods' certificates."""

from __future__ import annotations

import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.lab.certificates import Authority
from controller.lab.pod import PROXY_UID, Pod


@pytest.fixture
def pod(tmp_path):
    return pod_in(tmp_path, "a")


def pod_in(home, name, **more):
    pod = Pod(name, 1, "198.18.1.1", "fd00::1", str(home / "pods" / name), "", "", **more)
    (home / "pods" / name / "proxy").mkdir(parents=True)
    return pod


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_pod_has_its_own_key_and_a_certificate_of_its_name_and_addresses(tmp_path, pod):
    Authority(tmp_path / "ca").equip(pod)
    own = certificate(pod.tls_folder / "pod.pem")
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a"]
    assert [*map(str, names.get_values_for_type(x509.IPAddress))] == ["198.18.1.1", "fd00::1"]
    assert ipaddress.ip_address("fd00::1") in names.get_values_for_type(x509.IPAddress)
    key = serialization.load_pem_private_key((pod.tls_folder / "key.pem").read_bytes(), None)
    assert key.public_key() == own.public_key()
    own.verify_directly_issued_by(certificate(pod.tls_folder / "ca.pem"))
    assert own.not_valid_after_utc.year == 9999


def test_nobody_else_may_read_the_keys(tmp_path, pod):
    Authority(tmp_path / "ca").equip(pod)
    for path in (pod.tls_folder, *pod.tls_folder.iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (PROXY_UID, PROXY_UID)
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0
    for path in (tmp_path / "ca", *(tmp_path / "ca").iterdir()):
        assert path.stat().st_uid == 0
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_all_pods_of_a_home_have_one_authority(tmp_path, pod):
    other = pod_in(tmp_path, "b")
    for each in (pod, other):
        Authority(tmp_path / "ca").equip(each)
    ca = certificate(tmp_path / "ca" / "ca.pem")
    assert certificate(pod.tls_folder / "ca.pem") == certificate(other.tls_folder / "ca.pem") == ca
    assert certificate(pod.tls_folder / "pod.pem") != certificate(other.tls_folder / "pod.pem")


def test_an_authority_that_was_made_by_half_is_made_anew(tmp_path, pod):
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "key.pem").write_bytes(b"half")
    Authority(tmp_path / "ca").equip(pod)
    certificate(pod.tls_folder / "pod.pem").verify_directly_issued_by(certificate(tmp_path / "ca" / "ca.pem"))


def test_a_pod_with_links_in_cleartext_gets_nothing(tmp_path):
    pod = pod_in(tmp_path, "a", cleartext_links=True)
    Authority(tmp_path / "ca").equip(pod)
    assert not (tmp_path / "ca").exists()
    assert pod.tls_folder is None
