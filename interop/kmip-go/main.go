// A KMIP server and a KMIP client on github.com/ovh/kmip-go, for vmseal to be tried against.
//
//	kmip-go server CERTIFICATE KEY AUTHORITY     prints its address and serves
//	kmip-go client                               reads a job from standard input, prints what it saw
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 4 && arguments[0] == "server":
		return serve(arguments[1], arguments[2], arguments[3])
	case len(arguments) == 1 && arguments[0] == "client":
		var wanted job
		if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(wanted.do())
	}
	return fmt.Errorf("usage: kmip-go server CERTIFICATE KEY AUTHORITY | kmip-go client")
}
