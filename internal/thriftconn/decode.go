package thriftconn

import "github.com/osquery/osquery-go/gen/osquery"

// maxMethod is the longest name of a method that is taken for one.
const maxMethod = 256

// maxPrealloc is how many elements are allocated ahead of their arrival.
const maxPrealloc = 64

type header struct {
	kind   byte
	method string
	seq    int32
}

// header reads the start of a message, with or without a version.
func (r *reader) header() header {
	var h header
	n := r.i32()
	if n >= 0 { // the old form, which starts with the length of the name
		h.method = r.method(int(n))
		h.kind = r.u8()
		h.seq = r.i32()
		return h
	}
	if uint32(n)&versionMask != version1 {
		r.malformed("unknown protocol version %#x", uint32(n))
		return h
	}
	h.kind = byte(n)
	h.method = r.method(int(r.i32()))
	h.seq = r.i32()
	return h
}

// method reads a name of n bytes; those of the protocol cost no allocation.
func (r *reader) method(n int) string {
	if n < 0 || n > maxMethod {
		r.malformed("method name of %d bytes", n)
		return ""
	}
	b := r.take(n)
	switch string(b) {
	case methodPing:
		return methodPing
	case methodCall:
		return methodCall
	case methodQuery:
		return methodQuery
	case methodExtensions:
		return methodExtensions
	}
	return string(b)
}

// expect fails unless the peer sent the type that belongs here.
func (r *reader) expect(what string, got, want byte) bool {
	if got != want {
		r.malformed("%s has type %d instead of %d", what, got, want)
	}
	return r.err == nil
}

func (r *reader) status() osquery.ExtensionStatus {
	var s osquery.ExtensionStatus
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		switch {
		case id == 1 && typ == typeI32:
			s.Code = r.i32()
		case id == 2 && typ == typeString:
			s.Message = r.str()
		case id == 3 && typ == typeI64:
			s.UUID = osquery.ExtensionRouteUUID(r.i64())
		default:
			r.skip(typ)
		}
	}
	return s
}

func (r *reader) exception() (typ int32, message string) {
	for t, id := r.field(); t != typeStop; t, id = r.field() {
		switch {
		case id == 1 && t == typeString:
			message = r.str()
		case id == 2 && t == typeI32:
			typ = r.i32()
		default:
			r.skip(t)
		}
	}
	return typ, message
}

// mapHeader reads the start of a map and checks the types of its elements. An
// empty map may name any types.
func (r *reader) mapHeader(wantKey, wantValue byte, least int64) int {
	key, value := r.u8(), r.u8()
	n := r.count(least)
	if n > 0 && (!r.expect("map key", key, wantKey) || !r.expect("map value", value, wantValue)) {
		return 0
	}
	return n
}

func (r *reader) listHeader(want byte, least int64) int {
	elem := r.u8()
	n := r.count(least)
	if n > 0 && !r.expect("list element", elem, want) {
		return 0
	}
	return n
}

func (r *reader) stringMap() map[string]string {
	n := r.mapHeader(typeString, typeString, 2*minString)
	m := make(map[string]string, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		k := r.word()
		m[k] = r.word()
	}
	return m
}

func (r *reader) stringMaps() []map[string]string {
	n := r.listHeader(typeMap, minMap)
	list := make([]map[string]string, 0, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		list = append(list, r.stringMap())
	}
	return list
}

// word reads a string; the vocabulary of plugin calls costs no allocation.
func (r *reader) word() string {
	n := r.size()
	if n > maxWord {
		return r.strOf(n)
	}
	return known(r.take(n))
}

// maxWord is the length of the longest string that known looks at.
const maxWord = 12

// known returns a constant for the words that osqueryd uses in every call.
func known(b []byte) string {
	switch string(b) {
	case "string":
		return "string"
	case "category":
		return "category"
	case "event":
		return "event"
	case "action":
		return "action"
	case "generate":
		return "generate"
	case "context":
		return "context"
	case "logger":
		return "logger"
	case "table":
		return "table"
	case "config":
		return "config"
	case "distributed":
		return "distributed"
	}
	return string(b)
}

func (r *reader) extensionList() osquery.InternalExtensionList {
	n := r.mapHeader(typeI64, typeStruct, sizeI64+minStruct)
	list := make(osquery.InternalExtensionList, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		uuid := osquery.ExtensionRouteUUID(r.i64())
		info := &osquery.InternalExtensionInfo{}
		r.strings(&info.Name, &info.Version, &info.SdkVersion, &info.MinSdkVersion)
		list[uuid] = info
	}
	return list
}

func (r *reader) optionList() osquery.InternalOptionList {
	n := r.mapHeader(typeString, typeStruct, minString+minStruct)
	list := make(osquery.InternalOptionList, min(n, maxPrealloc))
	for ; n > 0 && r.err == nil; n-- {
		name := r.str()
		info := &osquery.InternalOptionInfo{}
		r.strings(&info.Value, &info.DefaultValue, &info.Type)
		list[name] = info
	}
	return list
}

// strings reads a struct whose fields 1, 2, … are strings.
func (r *reader) strings(into ...*string) {
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		if typ != typeString || id < 1 || int(id) > len(into) {
			r.skip(typ)
			continue
		}
		*into[id-1] = r.str()
	}
}

// callArgs reads the arguments of a plugin call.
func (r *reader) callArgs() (registry, item string, request map[string]string) {
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		switch {
		case id == 1 && typ == typeString:
			registry = r.word()
		case id == 2 && typ == typeString:
			item = r.str()
		case id == 3 && typ == typeMap:
			request = r.stringMap()
		default:
			r.skip(typ)
		}
	}
	if request == nil {
		request = map[string]string{}
	}
	return registry, item, request
}
