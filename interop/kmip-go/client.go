package main

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipclient"
	"github.com/ovh/kmip-go/payloads"
)

type job struct {
	Host, Certificate, Key, CA string
	Port, Major, Minor         int
}

// What each operation came to: "ok", or what went wrong.
type outcome map[string]string

func (o outcome) note(operation string, err error) bool {
	o[operation] = "ok"
	if err != nil {
		o[operation] = err.Error()
	}
	return err == nil
}

func unexpected(seen any) error { return fmt.Errorf("unexpected: %v", seen) }

func (j job) do() outcome {
	seen := outcome{}
	version := kmip.ProtocolVersion{ProtocolVersionMajor: int32(j.Major), ProtocolVersionMinor: int32(j.Minor)}
	client, err := kmipclient.Dial(fmt.Sprintf("%s:%d", j.Host, j.Port),
		kmipclient.WithClientCertFiles(j.Certificate, j.Key),
		kmipclient.WithRootCAFile(j.CA),
		kmipclient.WithKmipVersions(version))
	if !seen.note("DiscoverVersions", err) {
		return seen
	}
	defer client.Close()
	life(client, seen)
	attributes(client, seen)
	wrapping(client, seen)
	return seen
}

const usage = kmip.CryptographicUsageEncrypt | kmip.CryptographicUsageDecrypt

func life(client *kmipclient.Client, seen outcome) {
	query, err := client.Query().Operations().Exec()
	if seen.note("Query", err) && !slices.Contains(query.Operations, kmip.OperationCreate) {
		seen.note("Query", unexpected(query.Operations))
	}
	name := "from kmip-go"
	made, err := client.Create().AES(256, usage).WithName(name).Exec()
	if !seen.note("Create", err) {
		return
	}
	id := made.UniqueIdentifier
	first, err := key(client, id)
	if seen.note("Get", err) && len(first) != 32 {
		seen.note("Get", unexpected(len(first)))
	}
	found, err := client.Locate().WithName(name).Exec()
	if seen.note("Locate", err) && !slices.Equal(found.UniqueIdentifier, []string{id}) {
		seen.note("Locate", unexpected(found.UniqueIdentifier))
	}
	_, err = client.Activate(id).Exec()
	seen.note("Activate", err)
	state, err := client.GetAttributes(id, kmip.AttributeNameState).Exec()
	if seen.note("GetAttributes", err) &&
		(len(state.Attribute) != 1 || state.Attribute[0].AttributeValue != kmip.StateActive) {
		seen.note("GetAttributes", unexpected(state.Attribute))
	}
	batch(client, id, first, seen)
	fresh, err := client.Rekey(id).Exec()
	if seen.note("ReKey", err) && fresh.UniqueIdentifier == id {
		seen.note("ReKey", unexpected(id))
	}
	_, err = client.Archive(id).Exec()
	if seen.note("Archive", err) {
		_, err = client.Recover(id).Exec()
		seen.note("Recover", err)
	}
	_, err = client.Revoke(id).WithRevocationReasonCode(kmip.RevocationReasonCodeCessationOfOperation).Exec()
	seen.note("Revoke", err)
	_, err = client.Destroy(id).Exec()
	seen.note("Destroy", err)
	if _, err = key(client, id); err == nil {
		seen.note("Destroy", unexpected("the key can still be got"))
	}
}

func batch(client *kmipclient.Client, id string, expected []byte, seen outcome) {
	many := client.Get(id).Then(func(client *kmipclient.Client) kmipclient.PayloadBuilder { return client.Get(id) })
	results, err := many.Exec()
	if !seen.note("batch", err) {
		return
	}
	for _, result := range results {
		answer, known := result.ResponsePayload.(*payloads.GetResponsePayload)
		if !known {
			seen.note("batch", unexpected(result.ResultReason))
			return
		}
		material, err := answer.Object.(*kmip.SymmetricKey).KeyMaterial()
		if err != nil || !bytes.Equal(material, expected) {
			seen.note("batch", unexpected("another key"))
		}
	}
}

func attributes(client *kmipclient.Client, seen outcome) {
	material := bytes.Repeat([]byte{0x5A}, 32)
	registered, err := client.Register().SymmetricKey(kmip.CryptographicAlgorithmAES, usage, material).Exec()
	if !seen.note("Register", err) {
		return
	}
	id := registered.UniqueIdentifier
	if got, err := key(client, id); err != nil || !bytes.Equal(got, material) {
		seen.note("Register", unexpected("another key"))
	}
	_, err = client.AddAttribute(id, "x-Vendor", "kmip-go").Exec()
	seen.note("AddAttribute", err)
	_, err = client.ModifyAttribute(id, "x-Vendor", "other").Exec()
	seen.note("ModifyAttribute", err)
	names, err := client.GetAttributeList(id).Exec()
	if seen.note("GetAttributeList", err) && !slices.Contains(names.AttributeName, "x-Vendor") {
		seen.note("GetAttributeList", unexpected(names.AttributeName))
	}
	_, err = client.DeleteAttribute(id, "x-Vendor").Exec()
	seen.note("DeleteAttribute", err)
	_, err = client.Destroy(id).Exec()
	if err != nil {
		seen.note("Destroy", err)
	}
}

func wrapping(client *kmipclient.Client, seen outcome) {
	kek, err := client.Create().AES(256, kmip.CryptographicUsageWrapKey|kmip.CryptographicUsageUnwrapKey).Exec()
	if !seen.note("Get wrapped", err) {
		return
	}
	if _, err = client.Activate(kek.UniqueIdentifier).Exec(); !seen.note("Get wrapped", err) {
		return
	}
	made, err := client.Create().AES(256, usage).Exec()
	if !seen.note("Get wrapped", err) {
		return
	}
	answer, err := client.Get(made.UniqueIdentifier).WithKeyWrapping(kmip.KeyWrappingSpecification{
		WrappingMethod: kmip.WrappingMethodEncrypt,
		EncryptionKeyInformation: &kmip.EncryptionKeyInformation{
			UniqueIdentifier:        kek.UniqueIdentifier,
			CryptographicParameters: &kmip.CryptographicParameters{BlockCipherMode: kmip.BlockCipherModeNISTKeyWrap},
		},
		EncodingOption: kmip.EncodingOptionNoEncoding,
	}).Exec()
	if !seen.note("Get wrapped", err) {
		return
	}
	value := answer.Object.(*kmip.SymmetricKey).KeyBlock.KeyValue
	if value == nil || value.Wrapped == nil || len(*value.Wrapped) != 40 {
		seen.note("Get wrapped", unexpected("no wrapped key"))
	}
}

func key(client *kmipclient.Client, id string) ([]byte, error) {
	answer, err := client.Get(id).Exec()
	if err != nil {
		return nil, err
	}
	return answer.Object.(*kmip.SymmetricKey).KeyMaterial()
}
