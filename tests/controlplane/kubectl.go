package main

import (
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the credential plugins which kubectl has
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// runKubectl is kubectl with all its commands.
func runKubectl() int {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints the error and exits with the right code
	}
	return 0
}
