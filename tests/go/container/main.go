// Command container reads the files of a container by the libraries of the programs that they are
// for, and prints what these find in them as JSON.
//
//	container compose FILE         the project, as Docker Compose loads it
//	container dockerfile FILE      the stages and their instructions, as BuildKit parses them
//	container context ROOT         the files that the build is given, by .dockerignore
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

func main() {
	found, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) (any, error) {
	if len(arguments) != 2 {
		return nil, errors.New("usage: container compose|dockerfile|context PATH")
	}
	switch arguments[0] {
	case "compose":
		return compose(arguments[1])
	case "dockerfile":
		return dockerfile(arguments[1])
	case "context":
		return files(arguments[1])
	default:
		return nil, fmt.Errorf("%s is not known here", arguments[0])
	}
}

func compose(path string) (any, error) {
	options, err := cli.NewProjectOptions([]string{path})
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

type instruction struct {
	Name string `json:"name"`
	Text string `json:"text"`
	Is   any    `json:"is"`
}

type stage struct {
	Name         string        `json:"name"`
	From         string        `json:"from"`
	Instructions []instruction `json:"instructions"`
}

func dockerfile(path string) (any, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return nil, err
	}
	if len(parsed.Warnings) > 0 {
		return nil, fmt.Errorf("%s: %s", path, parsed.Warnings[0].Short)
	}
	// Whatever BuildKit would warn of is an error here.
	var warned error
	lint := linter.New(&linter.Config{
		Warn: func(rule, description, _, text string, _ []parser.Range) {
			warned = errors.Join(warned, fmt.Errorf("%s: %s (%s)", rule, text, description))
		},
	})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err := errors.Join(err, warned); err != nil {
		return nil, err
	}
	var found []stage
	for _, from := range stages {
		next := stage{Name: from.Name, From: from.BaseName}
		for _, command := range from.Commands {
			text, _ := command.(fmt.Stringer)
			next.Instructions = append(next.Instructions, instruction{
				Name: command.Name(), Text: fmt.Sprint(text), Is: command,
			})
		}
		found = append(found, next)
	}
	return found, nil
}

func files(root string) (any, error) {
	file, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		return nil, err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	found := map[string]int64{}
	parents := map[string]patternmatcher.MatchInfo{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		ignored, info, err := matcher.MatchesUsingParentResults(name, parents[filepath.Dir(name)])
		if err != nil {
			return err
		}
		if entry.IsDir() {
			parents[name] = info
			// Nothing below these is let in again.
			if base := entry.Name(); ignored && (base == "target" || base == ".git") {
				return filepath.SkipDir
			}
			return nil
		}
		if !ignored {
			details, err := entry.Info()
			if err != nil {
				return err
			}
			found[name] = details.Size()
		}
		return nil
	})
	return found, err
}
