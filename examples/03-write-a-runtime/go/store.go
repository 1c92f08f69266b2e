package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// words is a model: for each label, the words that speak for it.
type words struct {
	labels map[string]map[string]bool
	bytes  uint64
}

// slot is the place of one model id. Its lock makes loads and unloads of that id take turns: simultaneous loads
// become one, and a load during an unload waits. The model is nil while it is not loaded.
type slot struct {
	turn  sync.Mutex
	model *words
}

// store holds the models of this runtime and knows how many bytes they take.
type store struct {
	capacity uint64

	mu    sync.RWMutex
	slots map[string]*slot
	used  uint64
}

func (s *store) slot(id string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[id] == nil {
		s.slots[id] = &slot{}
	}
	return s.slots[id]
}

// get returns a loaded model, or nil.
func (s *store) get(id string) *words {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if slot := s.slots[id]; slot != nil {
		return slot.model
	}
	return nil
}

// load loads a model and returns its size.
func (s *store) load(ctx context.Context, id, path string) (uint64, error) {
	slot := s.slot(id)
	slot.turn.Lock()
	defer slot.turn.Unlock()
	if model := s.get(id); model != nil {
		return model.bytes, nil
	}
	model, err := read(path)
	if err != nil {
		return 0, err
	}
	if ctx.Err() != nil { // the mesh gave up; it must not find the model loaded
		return 0, status.FromContextError(ctx.Err()).Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if free := s.capacity - s.used; model.bytes > free {
		return 0, status.Errorf(codes.ResourceExhausted, "model %q needs %d bytes, %d are free", id, model.bytes, free)
	}
	slot.model = model
	s.used += model.bytes
	return model.bytes, nil
}

// unload drops a model; one that is not loaded is no error.
func (s *store) unload(id string) {
	slot := s.slot(id)
	slot.turn.Lock()
	defer slot.turn.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot.model != nil {
		s.used -= slot.model.bytes
		slot.model = nil
	}
}

// clear unloads everything.
func (s *store) clear() {
	s.mu.RLock()
	ids := make([]string, 0, len(s.slots))
	for id := range s.slots {
		ids = append(ids, id)
	}
	s.mu.RUnlock()
	for _, id := range ids {
		s.unload(id)
	}
}

func read(path string) (*words, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "%v", err)
	}
	var file map[string][]string
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%s is no word list: %v", path, err)
	}
	model := &words{labels: map[string]map[string]bool{}, bytes: 4096}
	for label, list := range file {
		set := make(map[string]bool, len(list))
		for _, word := range list {
			set[word] = true
			model.bytes += uint64(len(word)) + 64 // a map entry, measured on amd64
		}
		model.labels[label] = set
	}
	return model, nil
}

// classify returns the label most words speak for, and their share; ties go to the label first in the alphabet.
func (w *words) classify(text string) (string, float32, error) {
	tokens := strings.Fields(strings.ToLower(text))
	if len(tokens) == 0 {
		return "", 0, fmt.Errorf("the text is empty")
	}
	best, most := "", -1
	for label, set := range w.labels {
		hits := 0
		for _, token := range tokens {
			if set[token] {
				hits++
			}
		}
		if hits > most || (hits == most && label < best) {
			best, most = label, hits
		}
	}
	if most < 0 {
		return "", 0, fmt.Errorf("the model has no labels")
	}
	return best, float32(most) / float32(len(tokens)), nil
}
