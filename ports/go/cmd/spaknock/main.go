// SPDX-License-Identifier: MIT OR Apache-2.0

// The command line of the package: spaknock --key FILE SERVER ACTION [ARGUMENT]. Exit codes as of spa-knock.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	spaknock "spa-knock.invalid/ports/go"
)

func main() {
	if len(os.Args) < 5 || len(os.Args) > 6 || os.Args[1] != "--key" {
		fmt.Fprintln(os.Stderr, "usage: spaknock --key FILE SERVER ACTION [ARGUMENT]")
		os.Exit(spaknock.Usage)
	}
	request := spaknock.Request{Action: os.Args[4]}
	if len(os.Args) == 6 {
		request.Argument = os.Args[5]
	}
	var reply *spaknock.Reply
	key, err := spaknock.LoadKey(os.Args[2])
	if err == nil {
		reply, err = spaknock.Knock(key, os.Args[3], request, 3*time.Second)
	}
	var failure *spaknock.Error
	if errors.As(err, &failure) {
		fmt.Fprintln(os.Stderr, "spa-knock:", failure)
		os.Exit(failure.Code)
	}
	until := ""
	if reply.Seconds > 0 {
		until = fmt.Sprintf(" to %s for %ds", reply.Address.Addr(), reply.Seconds)
	}
	fmt.Printf("spa-knock: %s: %s %s%s\n", os.Args[3], request.Action, spaknock.Status[reply.Status], until)
}
