package main

import (
	"context"
	"crypto/aes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipserver"
	"github.com/ovh/kmip-go/payloads"
)

type object struct {
	material   []byte
	attributes []kmip.Attribute
}

// A store of keys behind kmip-go's server: codec, versions, batches and TLS are the library's.
type store struct {
	mutex   sync.Mutex
	next    int
	objects map[string]*object
}

func serve(certificate, key, authority string) error {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(pem)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientCAs:    clients,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS12,
	})
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().String())
	return kmipserver.NewServer(listener, newStore().executor()).Serve()
}

func newStore() *store { return &store{objects: map[string]*object{}} }

func (s *store) executor() *kmipserver.BatchExecutor {
	executor := kmipserver.NewBatchExecutor()
	route(s, executor, kmip.OperationCreate, s.create)
	route(s, executor, kmip.OperationRegister, s.register)
	route(s, executor, kmip.OperationGet, s.get)
	route(s, executor, kmip.OperationGetAttributes, s.getAttributes)
	route(s, executor, kmip.OperationGetAttributeList, s.getAttributeList)
	route(s, executor, kmip.OperationAddAttribute, s.addAttribute)
	route(s, executor, kmip.OperationModifyAttribute, s.modifyAttribute)
	route(s, executor, kmip.OperationDeleteAttribute, s.deleteAttribute)
	route(s, executor, kmip.OperationLocate, s.locate)
	route(s, executor, kmip.OperationActivate, s.activate)
	route(s, executor, kmip.OperationRevoke, s.revoke)
	route(s, executor, kmip.OperationDestroy, s.destroy)
	route(s, executor, kmip.OperationReKey, s.rekey)
	route(s, executor, kmip.OperationQuery, s.query)
	return executor
}

func route[Req, Resp kmip.OperationPayload](
	s *store, executor *kmipserver.BatchExecutor, operation kmip.Operation,
	handle func(context.Context, Req) (Resp, error),
) {
	executor.Route(operation, kmipserver.HandleFunc(func(ctx context.Context, request Req) (Resp, error) {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		return handle(ctx, request)
	}))
}

func (s *store) insert(ctx context.Context, material []byte, attributes []kmip.Attribute) string {
	s.next++
	id := fmt.Sprintf("go-%d", s.next)
	kept := append([]kmip.Attribute{
		{AttributeName: kmip.AttributeNameUniqueIdentifier, AttributeValue: id},
		{AttributeName: kmip.AttributeNameObjectType, AttributeValue: kmip.ObjectTypeSymmetricKey},
		{AttributeName: kmip.AttributeNameState, AttributeValue: kmip.StatePreActive},
	}, attributes...)
	s.objects[id] = &object{material: material, attributes: kept}
	kmipserver.SetIdPlaceholder(ctx, id)
	return id
}

func (s *store) find(ctx context.Context, id string) (string, *object, error) {
	id, err := kmipserver.GetIdOrPlaceholder(ctx, id)
	if err != nil {
		return id, nil, err
	}
	found := s.objects[id]
	if found == nil {
		return id, nil, kmipserver.ErrItemNotFound
	}
	return id, found, nil
}

func (o *object) index(name kmip.AttributeName, instance *int32) int {
	skip := int32(0)
	if instance != nil {
		skip = *instance
	}
	for place, attribute := range o.attributes {
		if attribute.AttributeName == name {
			if skip == 0 {
				return place
			}
			skip--
		}
	}
	return -1
}

func (o *object) value(name kmip.AttributeName) any {
	if place := o.index(name, nil); place >= 0 {
		return o.attributes[place].AttributeValue
	}
	return nil
}

func (o *object) setState(state kmip.State) {
	o.attributes[o.index(kmip.AttributeNameState, nil)].AttributeValue = state
}

func (s *store) create(ctx context.Context, request *payloads.CreateRequestPayload) (*payloads.CreateResponsePayload, error) {
	if request.ObjectType != kmip.ObjectTypeSymmetricKey {
		return nil, kmipserver.ErrInvalidField
	}
	fresh := &object{attributes: request.TemplateAttribute.Attribute}
	bits, known := fresh.value(kmip.AttributeNameCryptographicLength).(int32)
	if !known || !slices.Contains([]int32{128, 192, 256}, bits) {
		return nil, kmipserver.ErrInvalidField
	}
	material := make([]byte, bits/8)
	if _, err := rand.Read(material); err != nil {
		return nil, err
	}
	id := s.insert(ctx, material, request.TemplateAttribute.Attribute)
	return &payloads.CreateResponsePayload{ObjectType: request.ObjectType, UniqueIdentifier: id}, nil
}

func (s *store) register(ctx context.Context, request *payloads.RegisterRequestPayload) (*payloads.RegisterResponsePayload, error) {
	key, known := request.Object.(*kmip.SymmetricKey)
	if !known {
		return nil, kmipserver.ErrInvalidField
	}
	material, err := key.KeyMaterial()
	if err != nil {
		return nil, err
	}
	id := s.insert(ctx, material, request.TemplateAttribute.Attribute)
	return &payloads.RegisterResponsePayload{UniqueIdentifier: id}, nil
}

func (s *store) get(ctx context.Context, request *payloads.GetRequestPayload) (*payloads.GetResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	block := kmip.KeyBlock{
		KeyFormatType:          kmip.KeyFormatTypeRaw,
		CryptographicAlgorithm: kmip.CryptographicAlgorithmAES,
		CryptographicLength:    int32(len(found.material) * 8),
	}
	if wanted := request.KeyWrappingSpecification; wanted == nil {
		block.KeyValue = &kmip.KeyValue{Plain: &kmip.PlainKeyValue{KeyMaterial: kmip.KeyMaterial{Bytes: &found.material}}}
	} else {
		wrapped, err := s.wrap(wanted, found.material)
		if err != nil {
			return nil, err
		}
		block.KeyValue = &kmip.KeyValue{Wrapped: &wrapped}
		block.KeyWrappingData = &kmip.KeyWrappingData{
			WrappingMethod:           wanted.WrappingMethod,
			EncryptionKeyInformation: wanted.EncryptionKeyInformation,
			EncodingOption:           wanted.EncodingOption,
		}
	}
	return &payloads.GetResponsePayload{
		ObjectType: kmip.ObjectTypeSymmetricKey, UniqueIdentifier: id, Object: &kmip.SymmetricKey{KeyBlock: block},
	}, nil
}

// RFC 3394 without encoding, under an active key: all that is wrapped here.
func (s *store) wrap(wanted *kmip.KeyWrappingSpecification, material []byte) ([]byte, error) {
	information := wanted.EncryptionKeyInformation
	if wanted.WrappingMethod != kmip.WrappingMethodEncrypt || information == nil ||
		wanted.EncodingOption != kmip.EncodingOptionNoEncoding {
		return nil, kmipserver.ErrFeatureNotSupported
	}
	if mode := information.CryptographicParameters; mode == nil || mode.BlockCipherMode != kmip.BlockCipherModeNISTKeyWrap {
		return nil, kmipserver.ErrFeatureNotSupported
	}
	kek := s.objects[information.UniqueIdentifier]
	if kek == nil {
		return nil, kmipserver.ErrItemNotFound
	}
	if kek.value(kmip.AttributeNameState) != kmip.StateActive {
		return nil, kmipserver.ErrPermissionDenied
	}
	cipher, err := aes.NewCipher(kek.material)
	if err != nil {
		return nil, err
	}
	blocks := len(material) / 8
	wrapped := append([]byte{0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6}, material...)
	var work [16]byte
	for step := range 6 * blocks {
		place := 8 * (step%blocks + 1)
		copy(work[:8], wrapped[:8])
		copy(work[8:], wrapped[place:place+8])
		cipher.Encrypt(work[:], work[:])
		copy(wrapped[place:], work[8:])
		binary.BigEndian.PutUint64(wrapped[:8], binary.BigEndian.Uint64(work[:8])^uint64(step+1))
	}
	return wrapped, nil
}

func (s *store) getAttributes(ctx context.Context, request *payloads.GetAttributesRequestPayload) (*payloads.GetAttributesResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	response := &payloads.GetAttributesResponsePayload{UniqueIdentifier: id}
	for _, attribute := range found.attributes {
		if len(request.AttributeName) == 0 || slices.Contains(request.AttributeName, attribute.AttributeName) {
			response.Attribute = append(response.Attribute, attribute)
		}
	}
	return response, nil
}

func (s *store) getAttributeList(ctx context.Context, request *payloads.GetAttributeListRequestPayload) (*payloads.GetAttributeListResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	response := &payloads.GetAttributeListResponsePayload{UniqueIdentifier: id}
	for _, attribute := range found.attributes {
		if !slices.Contains(response.AttributeName, attribute.AttributeName) {
			response.AttributeName = append(response.AttributeName, attribute.AttributeName)
		}
	}
	return response, nil
}

func (s *store) addAttribute(ctx context.Context, request *payloads.AddAttributeRequestPayload) (*payloads.AddAttributeResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	found.attributes = append(found.attributes, request.Attribute)
	return &payloads.AddAttributeResponsePayload{UniqueIdentifier: id, Attribute: request.Attribute}, nil
}

func (s *store) modifyAttribute(ctx context.Context, request *payloads.ModifyAttributeRequestPayload) (*payloads.ModifyAttributeResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	place := found.index(request.Attribute.AttributeName, request.Attribute.AttributeIndex)
	if place < 0 {
		return nil, kmipserver.ErrItemNotFound
	}
	found.attributes[place] = request.Attribute
	return &payloads.ModifyAttributeResponsePayload{UniqueIdentifier: id, Attribute: request.Attribute}, nil
}

func (s *store) deleteAttribute(ctx context.Context, request *payloads.DeleteAttributeRequestPayload) (*payloads.DeleteAttributeResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	place := found.index(request.AttributeName, request.AttributeIndex)
	if place < 0 {
		return nil, kmipserver.ErrItemNotFound
	}
	deleted := found.attributes[place]
	found.attributes = slices.Delete(found.attributes, place, place+1)
	return &payloads.DeleteAttributeResponsePayload{UniqueIdentifier: id, Attribute: deleted}, nil
}

func (s *store) locate(ctx context.Context, request *payloads.LocateRequestPayload) (*payloads.LocateResponsePayload, error) {
	response := &payloads.LocateResponsePayload{}
	for id, candidate := range s.objects {
		if !slices.ContainsFunc(request.Attribute, func(wanted kmip.Attribute) bool {
			return !slices.ContainsFunc(candidate.attributes, func(has kmip.Attribute) bool {
				return has.AttributeName == wanted.AttributeName && reflect.DeepEqual(has.AttributeValue, wanted.AttributeValue)
			})
		}) {
			response.UniqueIdentifier = append(response.UniqueIdentifier, id)
		}
	}
	return response, nil
}

func (s *store) activate(ctx context.Context, request *payloads.ActivateRequestPayload) (*payloads.ActivateResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if found.value(kmip.AttributeNameState) != kmip.StatePreActive {
		return nil, kmipserver.ErrPermissionDenied
	}
	found.setState(kmip.StateActive)
	return &payloads.ActivateResponsePayload{UniqueIdentifier: id}, nil
}

func (s *store) revoke(ctx context.Context, request *payloads.RevokeRequestPayload) (*payloads.RevokeResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	found.setState(kmip.StateDeactivated)
	return &payloads.RevokeResponsePayload{UniqueIdentifier: id}, nil
}

func (s *store) destroy(ctx context.Context, request *payloads.DestroyRequestPayload) (*payloads.DestroyResponsePayload, error) {
	id, found, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if found.value(kmip.AttributeNameState) == kmip.StateActive {
		return nil, kmipserver.ErrPermissionDenied
	}
	delete(s.objects, id)
	return &payloads.DestroyResponsePayload{UniqueIdentifier: id}, nil
}

func (s *store) rekey(ctx context.Context, request *payloads.RekeyRequestPayload) (*payloads.RekeyResponsePayload, error) {
	_, old, err := s.find(ctx, request.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	material := make([]byte, len(old.material))
	if _, err := rand.Read(material); err != nil {
		return nil, err
	}
	id := s.insert(ctx, material, slices.Clone(old.attributes[3:]))
	return &payloads.RekeyResponsePayload{UniqueIdentifier: id}, nil
}

func (s *store) query(ctx context.Context, request *payloads.QueryRequestPayload) (*payloads.QueryResponsePayload, error) {
	return &payloads.QueryResponsePayload{
		Operations: []kmip.Operation{kmip.OperationCreate, kmip.OperationGet, kmip.OperationLocate, kmip.OperationDestroy},
		ObjectType: []kmip.ObjectType{kmip.ObjectTypeSymmetricKey},
	}, nil
}
