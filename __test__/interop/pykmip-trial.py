"""PyKMIP's client through its operations: a job as JSON on standard input, what each came to on standard output."""
import json
import sys

from kmip.core import attributes, enums, objects
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure
from kmip.pie.objects import SymmetricKey

job = json.load(sys.stdin)
version = enums.KMIPVersion[job["version"]]
second = version >= enums.KMIPVersion.KMIP_2_0
seen = {}
masks = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
wrapping = [enums.CryptographicUsageMask.WRAP_KEY, enums.CryptographicUsageMask.UNWRAP_KEY]


def attempt(operation, work):
    """Notes what became of an operation; returns its result."""
    try:
        result = work()
        seen[operation] = "ok"
        return result
    except KmipOperationFailure as failure:
        seen[operation] = failure.reason.name
    except AssertionError as unexpected:
        seen[operation] = "unexpected: %s" % unexpected
    except Exception as error:
        seen[operation] = "%s: %s" % (type(error).__name__, error)
    return None


def named(name):
    return AttributeFactory().create_attribute(enums.AttributeType.NAME, name)


def main(client):
    name = "from pykmip"
    if version > enums.KMIPVersion.KMIP_1_0:
        def versions():
            answer = client.proxy.discover_versions()
            assert answer.result_status.value == enums.ResultStatus.SUCCESS, answer.result_reason
        attempt("DiscoverVersions", versions)

    def query():
        answer = client.proxy.query(query_functions=[enums.QueryFunction.QUERY_OPERATIONS])
        assert enums.Operation.CREATE in answer.operations, answer.operations
    attempt("Query", query)
    uid = attempt("Create", lambda: client.create(
        enums.CryptographicAlgorithm.AES, 256, name=name, cryptographic_usage_mask=masks))
    if uid is None:
        return

    def get():
        key = client.get(uid)
        assert len(key.value) == 32 and client.get(uid).value == key.value, "another key"
    attempt("Get", get)

    def locate():
        found = client.locate(attributes=[named(name)])
        assert found == [uid], found
        assert client.locate(attributes=[named("nobody")]) == [], "nobody was found"
    attempt("Locate", locate)

    def get_attributes():
        _, some = client.get_attributes(uid, ["State", "Cryptographic Length"])
        values = [a.attribute_value.value for a in some]
        assert enums.State.PRE_ACTIVE in values and 256 in values, values
        client.get_attributes(uid)
    attempt("GetAttributes", get_attributes)

    def listed():
        names = client.get_attribute_list(uid)
        assert "State" in names, names
    attempt("GetAttributeList", listed)
    attempt("Check", lambda: client.check(uid, cryptographic_usage_mask=masks))
    attempt("Activate", lambda: client.activate(uid))

    def wrapped():
        kek = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=wrapping)
        client.activate(kek)
        answer = client.get(uid, key_wrapping_specification={
            "wrapping_method": enums.WrappingMethod.ENCRYPT,
            "encryption_key_information": {
                "unique_identifier": kek,
                "cryptographic_parameters": {"block_cipher_mode": enums.BlockCipherMode.NIST_KEY_WRAP},
            },
            "encoding_option": enums.EncodingOption.NO_ENCODING,
        })
        assert len(answer.value) == 40, len(answer.value)
    attempt("Get wrapped", wrapped)

    def register():
        own = bytes(range(32))
        registered = client.register(
            SymmetricKey(enums.CryptographicAlgorithm.AES, 256, own, masks=masks, name="registered"))
        assert client.get(registered).value == own, "another key"
        change_attributes(client, registered)
        client.destroy(registered)
    attempt("Register", register)

    def rekey():
        fresh = client.rekey(uid)
        assert fresh != uid, fresh
    attempt("ReKey", rekey)
    attempt("Revoke", lambda: client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid, "done"))

    def destroy():
        client.destroy(uid)
        try:
            client.get(uid)
        except KmipOperationFailure as failure:
            gone = (enums.ResultReason.ITEM_NOT_FOUND, enums.ResultReason.OBJECT_DESTROYED,
                    enums.ResultReason.OBJECT_NOT_FOUND)
            assert failure.reason in gone, failure.reason
            return
        raise AssertionError("the key can still be got")
    attempt("Destroy", destroy)


def change_attributes(client, uid):
    """Changes by the name of a key, which PyKMIP encodes in all its versions."""
    if second:
        def name(text):
            return attributes.Name.create(text, enums.NameType.UNINTERPRETED_TEXT_STRING)
        attempt("SetAttribute", lambda: client.set_attribute(
            uid, attribute_name="Contact Information", attribute_value="somebody"))
        attempt("ModifyAttribute", lambda: client.modify_attribute(
            uid,
            current_attribute=objects.CurrentAttribute(attribute=name("registered")),
            new_attribute=objects.NewAttribute(attribute=name("other"))))
        attempt("DeleteAttribute", lambda: client.delete_attribute(
            uid, current_attribute=objects.CurrentAttribute(attribute=name("other"))))
    else:
        other = AttributeFactory().create_attribute(enums.AttributeType.NAME, "other", 0)
        attempt("ModifyAttribute", lambda: client.modify_attribute(uid, attribute=other))
        attempt("DeleteAttribute", lambda: client.delete_attribute(
            uid, attribute_name="Name", attribute_index=0))


with ProxyKmipClient(
    hostname=job["host"],
    port=job["port"],
    cert=job["certificate"],
    key=job["key"],
    ca=job["ca"],
    ssl_version="PROTOCOL_TLSv1_2",
    kmip_version=version,
) as client:
    main(client)

print(json.dumps(seen))
