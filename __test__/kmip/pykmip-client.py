"""PyKMIP's client against a server: reads a job as JSON, prints what happened as JSON.

Keys are printed as the SHA-256 of their bytes only."""
import hashlib
import json
import sys

from kmip.core import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

job = json.load(sys.stdin)
seen = {}


def refused(call):
    try:
        call()
    except KmipOperationFailure as failure:
        return failure.reason.name
    return None


def named(name):
    return AttributeFactory().create_attribute(enums.AttributeType.NAME, name)


with ProxyKmipClient(
    hostname=job["host"],
    port=job["port"],
    cert=job["certificate"],
    key=job["key"],
    ca=job["ca"],
    ssl_version="PROTOCOL_TLSv1_2",
    kmip_version=enums.KMIPVersion[job["version"]],
) as client:
    masks = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
    uid = client.create(
        enums.CryptographicAlgorithm.AES, 256, name="from pykmip", cryptographic_usage_mask=masks
    )
    seen["id"] = uid
    key = client.get(uid)
    seen["length"] = key.cryptographic_length
    seen["same"] = client.get(uid).value == key.value
    seen["kept"] = client.create(
        enums.CryptographicAlgorithm.AES, 128, cryptographic_usage_mask=masks
    )
    seen["digest"] = hashlib.sha256(client.get(seen["kept"]).value).hexdigest()
    # In 2.0 it can name standard attributes alone.
    absent = "Object Group" if job["version"] == "KMIP_2_0" else "x-Nobody"
    _, attributes = client.get_attributes(uid, ["State", absent])
    seen["state"] = [a.attribute_value.value.name for a in attributes]
    client.activate(uid)
    seen["activated_again"] = refused(lambda: client.activate(uid))
    seen["destroy_active"] = refused(lambda: client.destroy(uid))
    seen["located"] = client.locate(attributes=[named("from pykmip")])
    seen["located_none"] = client.locate(attributes=[named("nobody")])
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid, "done")
    client.destroy(uid)
    seen["destroyed"] = refused(lambda: client.get(uid))
    seen["unknown"] = refused(lambda: client.get("nobody"))

print(json.dumps(seen))
